"""The plugin for Tutor, which is how most operators deploy Open edX. Loaded by Tutor alone: nothing else imports it."""
