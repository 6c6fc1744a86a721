"""What a box is made with where nobody says otherwise; loads nothing else."""

DEFAULT_TENANTS = ("contoso", "fabrikam", "northwind")
