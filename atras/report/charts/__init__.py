"""report.charts"""
