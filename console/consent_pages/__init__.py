"""The pages on which a customer's administrator connects a mailbox, without an account here."""
