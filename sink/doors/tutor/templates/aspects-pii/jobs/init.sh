aspects-pii init --with-aspects
