"""The Django app that an LMS and a Studio load, so that the sink hears of retirements and changes at once."""
