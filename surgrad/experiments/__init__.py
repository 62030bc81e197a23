"""The suites: each with its configuration, study, analysis and figures."""
