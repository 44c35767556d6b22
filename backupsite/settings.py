"""Django settings, derived from `backupsite.config`; nothing else reads the environment."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from backupsite.brokers import transport_options
from backupsite.config import ProcessRole, load_config
from backupsite.databases import database_from_url
from backupsite.logs import logging_config
from common.errors import ConfigurationError

BASE_DIR = Path(__file__).resolve().parent.parent

try:
    CONFIG = load_config()
    DATABASES = {
        "default": database_from_url(
            CONFIG.database_url.get_secret_value() if CONFIG.database_url else None, data=CONFIG.data
        )
    }
except ConfigurationError as error:
    sys.exit(f"backupsite: wrong setting: {error.message}")

ROLE = CONFIG.role
SECRET_KEY = CONFIG.django_secret_key
DEBUG = CONFIG.debug
ALLOWED_HOSTS = [host for host in CONFIG.allowed_hosts.split(",") if host]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_celery_beat",
    "guardian",
    "django_htmx",
    "tenants",
    "vaults",
    "agents",
    "definitions",
    "backups",
    "backupsite.apps.BackupsiteConfig",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "backupsite.middleware.SecurityHeadersMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "backupsite.middleware.TimeZoneMiddleware",
]

# Only the process that serves the session gate knows its URLs; the portal's process has none of its secrets.
ROOT_URLCONF = "backupsite.gate_urls" if ROLE is ProcessRole.SIGNER else "backupsite.urls"
WSGI_APPLICATION = "backupsite.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

AUTH_USER_MODEL = "tenants.Person"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "guardian.backends.ObjectPermissionBackend",
]
ANONYMOUS_USER_NAME = None
GUARDIAN_RAISE_403 = False
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"

SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
_HTTPS = CONFIG.portal_url.startswith("https://")
SESSION_COOKIE_SECURE = _HTTPS
CSRF_COOKIE_SECURE = _HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if _HTTPS else 0
CSRF_TRUSTED_ORIGINS = [CONFIG.portal_url]
X_FRAME_OPTIONS = "DENY"
# One name per portal, so that two installations on one host do not sign each other out.
SESSION_COOKIE_NAME = f"backupsite_session_{CONFIG.port}"
CSRF_COOKIE_NAME = f"backupsite_csrf_{CONFIG.port}"
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024

LANGUAGE_CODE = "en"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
STATIC_ROOT = CONFIG.data.absolute() / "static"
# The files are served from the apps' folders: no collect step, one command less to forget.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "tenants.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "PAGE_SIZE": 50,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "backupsite.error_handler.problem_response",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Backupsite API",
    "VERSION": "1",
    "DESCRIPTION": "Tenants, servers, backup definitions, backups and jobs.",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "JobStateEnum": "backups.states.JOB_STATE_CHOICES",
        "BackupStatusEnum": "backups.states.BACKUP_STATUS_CHOICES",
    },
}

CELERY_BROKER_URL = CONFIG.broker_url.get_secret_value()
CELERY_TASK_DEFAULT_QUEUE = "system"
# Only the reaper holds the right to delete, so only it takes these.
CELERY_TASK_ROUTES = {name: {"queue": "reaper"} for name in ("vaults.tasks.reap", "vaults.tasks.check_rights")}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
# The database row is the truth and the message a hint: a message is taken at once and never delivered twice by
# design; lost ones are found again by the sweep. Late acknowledgement would start long backups several times.
CELERY_TASK_ACKS_LATE = False
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_MAX_TASKS_PER_CHILD = 200
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_TIMEZONE = "UTC"
CELERY_ENABLE_UTC = True
CELERY_BEAT_MAX_LOOP_INTERVAL = 2
CELERY_BROKER_TRANSPORT_OPTIONS = transport_options(CELERY_BROKER_URL, data=CONFIG.data)
# A stop waits this long for what runs; then the job's lease ends and another worker takes it over.
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 8
DJANGO_CELERY_BEAT_TZ_AWARE = True

# How often the fixed periodic tasks run (see backups.beat).
BEAT_DISPATCH_INTERVAL = timedelta(seconds=2)
BEAT_SWEEP_INTERVAL = timedelta(seconds=5)

LOGGING = logging_config(level=CONFIG.log_level)
LOGGING_CONFIG = "logging.config.dictConfig"
