"""A made-up fleet, for measuring lists at size: `manage.py seed_fleet`."""
