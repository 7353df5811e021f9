"""Tables that users bring: dialects of CSV, JSON and Parquet to columns by image."""
