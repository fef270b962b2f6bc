"""What people look at: report.html."""
