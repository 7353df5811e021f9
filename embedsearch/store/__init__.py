"""The store on disk: immutable shards and manifests, one pointer replaced by rename."""
