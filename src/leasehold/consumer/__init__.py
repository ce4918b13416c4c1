"""The users' side: verify an enclave first, then ask it, with any OpenAI client or this SDK."""
