"""What `make quickstart` runs before the pipeline: fetch real photos and weights, pack them into shards."""
