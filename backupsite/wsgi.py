"""WSGI entry point of the portal with the API, and of the session gate (by role)."""

import gc
import os

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backupsite.settings")
application = get_wsgi_application()

# With the views, which otherwise the first request would load.
VIEWS = get_resolver().url_patterns
# All of that stays. Looking through it for garbage took a fifth of a second each time, and every request waited.
gc.collect()
gc.freeze()
