"""OpenVINO NNCF's range estimators as a quantcore backend."""
