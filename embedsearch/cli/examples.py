"""Examples at the end of each command's help; a test parses every one."""

from __future__ import annotations

EXAMPLES = {
    "index": (
        "embedsearch index ~/Pictures",
        "embedsearch index",
        "embedsearch index ~/Pictures --exclude 'Trash/' --watch",
        "embedsearch index products/ --metadata products.csv --store products.es",
    ),
    "query": (
        "embedsearch query beach.jpg",
        'embedsearch query --text "red shoes" -k 20',
        "embedsearch query --key trips/2024/beach.jpg --where \"format = 'JPEG'\"",
        "embedsearch query beach.jpg --like sunset.jpg --sheet found.png",
        "embedsearch query beach.jpg --paths --null | xargs -0 cp -t album/",
    ),
    "info": ("embedsearch info", "embedsearch info --generations"),
    "failures": ("embedsearch failures", "embedsearch failures --ignored --json"),
    "check": ("embedsearch check", "embedsearch check --read-data"),
    "repair": ("embedsearch repair", "embedsearch repair --to 4"),
    "relocate": ("embedsearch relocate /media/old/Pictures ~/Pictures",),
    "forget": ("embedsearch forget /media/old/Pictures",),
    "commit": (
        "embedsearch index photos --store photos.es --unit 1/4    # and 2/4, 3/4, 4/4",
        "embedsearch commit --store photos.es",
    ),
    "duplicates": (
        "embedsearch duplicates",
        "embedsearch duplicates --script delete.sh --keep folder=~/Pictures/album",
        "embedsearch duplicates ~/Downloads --against ~/Pictures --html copies.html",
    ),
    "clusters": ("embedsearch clusters -k 20", "embedsearch clusters --csv > clusters.csv"),
    "outliers": ("embedsearch outliers", 'embedsearch outliers -k 50 --where "width > 1000"'),
    "map": ("embedsearch map map.html", "embedsearch map map.html --color camera"),
    "models": ("embedsearch models",),
    "bench": ("embedsearch bench ~/Pictures --model resnet18",),
    "evaluate": (
        "embedsearch evaluate judged/ --model packaged --model resnet50",
        "embedsearch evaluate judged/ --rerank --expand 5 --sheet worst.png",
    ),
    "train": (
        "embedsearch train labeled/ --out mine.safetensors",
        "embedsearch train photos/ --targets t.csv --classify kind --out my.safetensors",
    ),
    "export": (
        "embedsearch export all.parquet",
        'embedsearch export large.jsonl --where "width > 1000"',
        "embedsearch export --to milvus://localhost:19530/photos",
    ),
    "import": (
        "embedsearch import vectors.parquet --model clip-vit-b32 --root ~/Pictures",
        "embedsearch import vectors.npy --paths names.csv --model clip-vit-b32",
    ),
    "pull": ("embedsearch pull s3://bucket/photos.es",),
    "serve": ("embedsearch serve", "embedsearch serve --host 0.0.0.0 --token-file token.txt"),
    "mcp": (
        "embedsearch mcp --store photos.es",
        "embedsearch mcp --store photos.es --http --port 8001",
    ),
    "prepare": (
        "embedsearch prepare resnet50",
        "embedsearch prepare packaged mine.safetensors --precision int8",
    ),
}
