"""The services of penstock; none imports another, all stand on the chassis and the stubs."""
