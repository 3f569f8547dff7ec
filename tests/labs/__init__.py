"""The labs: each claim about concurrency as a program that can be watched failing."""
