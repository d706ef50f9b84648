"""Image store: blobs, records, references, garbage collection and initrds."""
