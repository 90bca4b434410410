"""One file a kind of judge task."""
