"""What a run says: report.json, the offline document, figures and words. Reads run folders; no model, no torch, no Streamlit."""
