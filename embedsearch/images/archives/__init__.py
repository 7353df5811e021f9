"""Images in tar and zip files."""
