"""Formats that Pillow alone does not read well, or not fast; out: Pillow images and samples."""
