"""How good the alerts that read traffic are."""
