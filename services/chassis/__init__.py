"""What every penstock server needs to boot, fail, be watched and stop."""
