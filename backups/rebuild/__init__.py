"""Making the catalogue again from a bucket and a recovery key, when the database is gone."""
