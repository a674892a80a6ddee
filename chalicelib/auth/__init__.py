"""Who may do what: users, sessions and the table of roles, cohorts and actions. Ships with both tiers.

The web tier signs people in; the services tier resolves the same session again, so that no request is authorised by the
web tier's word alone.
"""
