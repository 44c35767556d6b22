"""The portal's addresses and the signer's beside each other: a test of agents asks both."""

from backupsite import gate_urls, urls

handler400, handler404, handler500 = urls.handler400, urls.handler404, urls.handler500
handler403 = urls.handler403
urlpatterns = [*gate_urls.urlpatterns, *urls.urlpatterns]
