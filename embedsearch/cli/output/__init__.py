"""Results for people and for programs: tables, JSON lines, CSV, contact sheets."""
