//! AWS credentials for the caller (STS AssumeRoleWithWebIdentity) and signatures with them (SigV4).
