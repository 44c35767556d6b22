"""`/api/`: the resources of the es grammar, as a second form of the same API.

Thin views over the services and the scoping of `/api/v1/`. There is no rule in here and no right: what may be seen
comes from `for_user`, what may be done from `get_for_user` and the services. It stands in the composition root because
its resources reach over all apps, and because nothing else may ever stand on it.
"""
