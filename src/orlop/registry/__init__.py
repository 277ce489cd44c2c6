"""The distribution protocol, client side: endpoints, authentication, manifests, blobs down and up."""
