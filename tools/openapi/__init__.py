"""The descriptions of both HTTP APIs as OpenAPI 3.1, written from the records that the servers decode."""
