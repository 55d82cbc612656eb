"""Settings that the plugin gives the LMS."""
