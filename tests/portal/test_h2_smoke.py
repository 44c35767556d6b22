from django.db import connection
from django.test.utils import CaptureQueriesContext
def test_it(world):
    for name in ("admin_a",):
        for p in ("servers/", "backups/"):
            c=world.client(name)
            with CaptureQueriesContext(connection) as q: c.get("/"+p)
            print(p,len(q))
            for x in q: print("   ",x["sql"][:260])
