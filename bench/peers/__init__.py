"""The peers' side: small servers in each peer's own manner, over one fake engine or the one real model."""
