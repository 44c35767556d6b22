"""Where objects are put and read: the seam (base), a model of a bucket (memory), presigned grants (http)."""
