"""AMD SEV-SNP: attestation reports, VCEK and VLEK certificates, key distribution service."""
