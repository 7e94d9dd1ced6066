"""The command line `margo-oci`: parses, calls the library, prints."""
