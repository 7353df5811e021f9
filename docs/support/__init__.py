"""What builds the documentation and runs its sessions; not part of the site."""
