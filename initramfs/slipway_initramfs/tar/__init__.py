"""Reader of tar archives from untrusted sources."""
