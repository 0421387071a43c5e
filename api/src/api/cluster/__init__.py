"""What Kubernetes is doing about a model without a ready worker."""
