"""Values only: ids, digests, references, OCI and Docker documents. No policy, no I/O."""
