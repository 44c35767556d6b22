"""Django settings, derived from `backupsite.config`; nothing else reads the environment."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

from backupsite.brokers import transport_options
from backupsite.caches import caches_from_broker
from backupsite.config import ProcessRole, load_config
from backupsite.databases import database_from_url
from backupsite.logs import logging_config
from backupsite.mail import mail_settings
from backupsite.single_sign_on import allauth_providers
from common.errors import ConfigurationError
from tenants.sign_in.limits import Limits

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
    "django_celery_beat",
    "guardian",
    "django_htmx",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "tenants",
    "vaults",
    "agents",
    "definitions",
    "backups",
    "backupsite.apps.BackupsiteConfig",
]

MIDDLEWARE = [
    "agents.agent_endpoint.SignedAnswersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "backupsite.middleware.SecurityHeadersMiddleware",
    "tenants.origin.OriginMiddleware",
    "tenants.refusals.RefusalMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "tenants.sign_in.guard.SignInGuardMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "backupsite.middleware.TimeZoneMiddleware",
]

# Nobody at the gate has a session, a cookie or a browser.
GATE_MIDDLEWARE = [
    "agents.agent_endpoint.SignedAnswersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "backupsite.middleware.SecurityHeadersMiddleware",
    "tenants.origin.OriginMiddleware",
    "tenants.refusals.RefusalMiddleware",
    "django.middleware.common.CommonMiddleware",
    # allauth does not start without it.
    "allauth.account.middleware.AccountMiddleware",
]
if ROLE is ProcessRole.SIGNER:
    MIDDLEWARE = GATE_MIDDLEWARE

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
    "tenants.sign_in.backend.PasswordBackend",
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
PASSWORD_RESET_TIMEOUT = 3600
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"

# Sign-in (tenants.sign_in). allauth does the second factors and the single sign-on; nobody signs up.
SESSION_ENGINE = "tenants.sign_in.session_store"
SESSION_LIMITS = Limits(
    life=CONFIG.session_hours * 3600,
    idle=CONFIG.session_hours * 3600,
    idle_administrator=CONFIG.admin_idle_minutes * 60,
)
SESSION_COOKIE_AGE = SESSION_LIMITS.life
ACCOUNT_ADAPTER = "tenants.sign_in.adapters.AccountAdapter"
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*"]
ACCOUNT_SESSION_REMEMBER = True
# Asked again before what is sensitive, when longer ago than this.
ACCOUNT_REAUTHENTICATION_TIMEOUT = 300
# Of allauth's limits, those on codes and confirmations; passwords are counted by tenants.sign_in.throttle.
ACCOUNT_RATE_LIMITS = {"login_failed": "20/m/ip,5/5m/key,30/d/key", "reauthenticate": "10/m/user"}
MFA_ADAPTER = "tenants.sign_in.adapters.FactorAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_TOTP_ISSUER = "Backupsite"
MFA_RECOVERY_CODE_DIGITS = 10
MFA_RECOVERY_CODES_SHOW_ONCE = True
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_ALLOW_UNVERIFIED_EMAIL = True
SOCIALACCOUNT_ADAPTER = "tenants.sign_in.adapters.SocialAdapter"
SOCIALACCOUNT_AUTO_SIGNUP = False
SOCIALACCOUNT_STORE_TOKENS = False
# A link, not a form: the content policy lets no form lead elsewhere.
SOCIALACCOUNT_LOGIN_ON_GET = True
SOCIALACCOUNT_EMAIL_VERIFICATION = "none"
SOCIALACCOUNT_PROVIDERS = allauth_providers(CONFIG.oidc)
OIDC_BELIEVES_MFA = {provider.id: provider.believe_mfa for provider in CONFIG.oidc}

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
DATA_UPLOAD_MAX_MEMORY_SIZE = CONFIG.largest_body_bytes

LANGUAGE_CODE = "en"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
STATIC_ROOT = CONFIG.data.absolute() / "static"
# The files are served from the apps' folders: no collect step, one command less to forget.
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = DEBUG
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# SQLite leaves the extra columns of an index out; that is meant so.
SILENCED_SYSTEM_CHECKS = ["models.W040"]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "tenants.authentication.TokenAuthentication",
        "tenants.sign_in.api_session.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    # Views of ours have a stricter one, and throttles, from tenants.api.guard.
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "PAGE_SIZE": 50,
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "backupsite.error_handler.problem_response",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
# Requests of one token, person or address; what is not named has no limit. `refused`: 401 answers of one address.
API_RATES = {"read": "1200/m", "write": "300/m", "export": "20/m", "sign-in": "10/m", "refused": "60/m"}
# Signed requests of one agent.
API_RATES |= {"agent": "120/m"}
# Tokens that are tried from one address.
API_RATES |= {"enrol": "20/m"}
# Calls of one session at the gate: several times what a mover needs that fills ten gigabits per second.
API_RATES |= {"session": "12000/m"}
# Passwords tried, right ones not counted: by an address, for one account from it, for one account from everywhere.
API_RATES |= {"password-address": "30/m", "password-pair": "10/m", "password-pair-hourly": "30/h"}
API_RATES |= {"password-account": "100/h", "reset-address": "10/m", "reset-account": "5/h"}
# Rows of one CSV file.
API_EXPORT_ROWS = 100_000
# With True, PATCH and DELETE of what has an ETag need If-Match.
API_REQUIRE_IF_MATCH = False
SPECTACULAR_SETTINGS = {
    "TITLE": "Backupsite API",
    "VERSION": "1",
    "DESCRIPTION": "Tenants, servers, backup definitions, backups and jobs.",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    # Choices stay where they are used: names for them would collide with each new resource.
    "POSTPROCESSING_HOOKS": ["tenants.api.schema.plain_values"],
}

CACHES = caches_from_broker(CONFIG.broker_url.get_secret_value())

CELERY_BROKER_URL = CONFIG.broker_url.get_secret_value()
CELERY_TASK_DEFAULT_QUEUE = "system"
# Only the reaper holds the right to delete, so only it takes these.
CELERY_TASK_ROUTES = {name: {"queue": "reaper"} for name in ("vaults.tasks.reap", "vaults.tasks.check_rights")}
# Only the sender opens the secrets of webhooks.
CELERY_TASK_ROUTES |= {
    name: {"queue": "notices"} for name in ("tenants.tasks.send_notices", "tenants.tasks.forget_old_notices")
}
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

# EMAIL_BACKEND and what it needs.
vars().update(
    mail_settings(
        CONFIG.email_url.get_secret_value() if CONFIG.email_url else None, folder=CONFIG.data.absolute() / "mail"
    )
)
DEFAULT_FROM_EMAIL = SERVER_EMAIL = CONFIG.email_from

LOGGING = logging_config(level=CONFIG.log_level)
LOGGING_CONFIG = "logging.config.dictConfig"
