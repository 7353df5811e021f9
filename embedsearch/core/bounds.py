"""How much is taken from outside before it is refused: archives, tables, servers.

A file or a server can state anything, and few bytes can unpack to many. What goes beyond one of
these numbers is a failure that names it. They are far above what honest files need.
"""

from __future__ import annotations

# Archives. What unpacks to more than `UNPACKED_RATIO` times its bytes is no photo.
UNPACKED_RATIO, UNPACKED_FLOOR_BYTES = 200, 256 << 20
HEADER_BYTES = 1 << 20  # of a member: its long name, its pax records
HEADERS = 16  # of a member, one for the next
MEMBERS = 4_000_000
# Of a compressed tar: so many, and one more for so many packed bytes.
MEMBERS_FLOOR, MEMBER_PACKED_BYTES = 100_000, 64
ODD_MEMBERS = 100_000  # that are failures by their name
XZ_MEMORY_BYTES = 128 << 20  # `xz -9` needs 65 MB

# Parquet: pages are unpacked to the size that they state.
FOOTER_BYTES = 16 << 20
SCHEMA_FIELDS, SCHEMA_DEPTH, COLUMN_CHUNKS = 10_000, 64, 100_000
PAGE_RATIO, PAGE_FLOOR_BYTES = 50, 64 << 20
PAGE_HEADER_BYTES = 1 << 20
VALUES_FLOOR, VALUE_BYTES = 16_000_000, 1  # stated values: so many, and one for so many bytes
ROWS_FLOOR, ROW_BYTES = 100_000, 16  # of images likewise
READ_BYTES = 32 << 20  # of values that are unpacked together
PATH_BYTES = 4096  # of a row
TABLE_RATIO, TABLE_FLOOR_BYTES = 20, 128 << 20  # columns that memory holds
HEADER_CHARS, SEPARATORS = 1 << 20, 1_000_000  # of CSV: the names of columns, one row
JSON_VALUES_FLOOR, JSON_VALUE_BYTES = 1_000_000, 8  # of one document: so many, one for so many

# Servers.
CONNECT_S, SILENT_S = 10.0, 30.0  # without a byte
HEADERS_S = 30.0  # until the headers of an answer have come
ANSWER_S = 900.0  # for all of it
SLOWEST_BYTES_S = 1024  # on average, after SILENT_S
LISTING_BYTES, LISTING_LINKS, LISTING_S = 64 << 20, 250_000, 120.0  # of one folder
LISTING_DEPTH, LISTING_FOLDERS, LISTINGS_S = 64, 100_000, 3600.0  # of all below a URL
SAME_LISTINGS = 3  # in one another: a folder that holds itself
AHEAD_BYTES = 256 << 20  # of images that are fetched before they are decoded
UNSIZED_BYTES = 4 << 30  # of an archive whose length the server does not tell
