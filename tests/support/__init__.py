"""What tests share: no test module imports from another, and conftest.py holds fixtures only."""
