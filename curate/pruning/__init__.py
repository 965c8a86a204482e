"""Which samples stay: complexity, quotas, metrics and selection on arrays. Knows no files and no parts."""
