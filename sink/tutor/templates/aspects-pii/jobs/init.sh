aspects-pii init
