"""What names of definitions, policies and tags may be: safe in every file name, command and URL."""

from django.core.validators import RegexValidator

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z"
TAG_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,31}\Z"
check_name = RegexValidator(NAME_PATTERN, "Use letters, digits, dots, dashes; begin with a letter or digit.")
check_tag = RegexValidator(TAG_PATTERN, "Use small letters, digits, dots and dashes, at most 32.")
