# A volume with an image on it, through lvpctl on the machine that runs Terraform.
#
# terraform_data has no state of its own to compare: the volume is provisioned when it is made, and again whenever one of
# `triggers_replace` changes. Destroying it leaves the volume on the hypervisor; remove it there ('lvremove').

terraform {
  required_version = ">= 1.4"
}

variable "endpoint" {
  description = "The hypervisor's daemon"
  type        = string
  default     = "https://hypervisor-01.example.com:8080"
}

variable "token_file" {
  description = "File whose first line is an access token with the role provision"
  type        = string
}

variable "ca_cert" {
  description = "PEM file with the authority of the daemon's certificate; empty for the system's"
  type        = string
  default     = ""
}

variable "image" {
  description = "s3://BUCKET/KEY; give new images new names"
  type        = string
}

variable "volume" {
  description = "Name of the volume"
  type        = string
}

variable "size" {
  description = "Size of the volume, such as 50G"
  type        = string
}

resource "terraform_data" "volume" {
  input            = "${var.endpoint}/${var.volume}"
  triggers_replace = [var.endpoint, var.volume, var.image]

  provisioner "local-exec" {
    command = "lvpctl provision \"$IMAGE\" \"$VOLUME\" --size \"$SIZE\" --correlation-id \"terraform-$VOLUME\" --wait --timeout 3h"

    environment = {
      IMAGE          = var.image
      VOLUME         = var.volume
      SIZE           = var.size
      LVP_ENDPOINT   = var.endpoint
      LVP_TOKEN_FILE = var.token_file
      LVP_CA_CERT    = var.ca_cert
    }
  }
}

output "volume" {
  value = terraform_data.volume.output
}
