"""The way out: visits lease a token, submit mails, record outcomes."""
