"""report.sections"""
