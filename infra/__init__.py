"""Operator tools: role packages, CloudFormation, policies, the local stack. Imported by the CLI only; never deployed."""
