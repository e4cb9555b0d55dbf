"""How penstock is brought up: on one machine, in containers, on Kubernetes."""
