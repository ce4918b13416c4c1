"""TPM 2.0 quotes, and Azure confidential VMs whose hardware report stands behind a vTPM."""
