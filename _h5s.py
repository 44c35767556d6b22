import sys, time, os
os.environ["BACKUPSITE_PORT"]="8000"
import django; django.setup()
from django.conf import settings
settings.ALLOWED_HOSTS=["*"]; settings.API_RATES={}
from django.test import Client
from django.db import connection
from tests.bench.api_pages import people
P=people()
for role, address in [a.split("|") for a in sys.argv[1:]]:
    c=Client(); c.force_login(next(p for r,p in P.items() if role in r))
    c.get(address)
    st=[]
    def w(ex, sql, params, many, ctx):
        b=time.perf_counter()
        try: return ex(sql, params, many, ctx)
        finally: st.append((time.perf_counter()-b, sql, params))
    b=time.process_time()
    with connection.execute_wrapper(w): r=c.get(address)
    print("=====",role,address,r.status_code,len(st),"stmts",len(r.content),"bytes; django cpu ms",int((time.process_time()-b)*1000))
    for t,sql,params in sorted(st,key=lambda x:-x[0])[:2]:
        print(int(t*1000),"ms",sql[:1500]); 
        if sql.startswith("SELECT"):
            with connection.cursor() as cur:
                cur.execute("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) "+sql, params)
                print("\n".join("   "+x[0][:150] for x in cur.fetchall())[:2600])
